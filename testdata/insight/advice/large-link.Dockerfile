#> current link
#> v1/x 20000000
#> v2/x 20000000
FROM debian
COPY current /x
