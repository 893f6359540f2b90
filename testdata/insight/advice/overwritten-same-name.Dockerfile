#> x/app 1000
#> y/app 1000
FROM debian
COPY x/app /etc/app
COPY y/app /etc/app
COPY x/app /srv/
ADD y/app /srv/app
