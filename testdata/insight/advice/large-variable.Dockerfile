#> a 1000
#> data/x 20000000
#> more/x 20000000
FROM debian
ARG D=data
COPY $D /data
