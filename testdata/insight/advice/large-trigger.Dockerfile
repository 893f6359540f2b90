#> a 1000
#> data/x 20000000
FROM debian
COPY a /
ONBUILD COPY data /data
