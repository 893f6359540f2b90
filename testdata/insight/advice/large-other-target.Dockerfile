#> a 1000
#> data/x 20000000
FROM debian AS test
COPY data /data
FROM debian
COPY a /
