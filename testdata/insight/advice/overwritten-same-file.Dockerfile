#> a.conf 1000
#> b.conf 1000
FROM debian
COPY a.conf /etc/app/app.conf
ENV X=1
COPY b.conf /etc/app/app.conf
