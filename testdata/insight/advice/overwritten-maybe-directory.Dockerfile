#> a 1000
#> b 1000
FROM debian
COPY a /etc/app
COPY b /etc/app
