#> web/package.json 1000
#> web/package-lock.json 1000
#> web/a.js 1000
#> server/main.go 1000
FROM node
WORKDIR /srv
COPY . .
RUN cd web && npm ci && npm run build
