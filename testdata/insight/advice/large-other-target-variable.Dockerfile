#> a 1000
#> data/x 20000000
FROM debian AS test
ARG D=data
COPY $D /data
FROM debian
COPY a /
