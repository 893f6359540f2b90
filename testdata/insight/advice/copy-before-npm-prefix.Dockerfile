#> web/package.json 1000
#> web/package-lock.json 1000
#> web/a.js 1000
#> server/main.go 1000
FROM node
COPY . /srv/
RUN npm --prefix /srv/web ci
