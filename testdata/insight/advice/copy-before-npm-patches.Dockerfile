#> package.json 1000
#> package-lock.json 1000
#> src/a.js 1000
#> src/b.js 1000
#> Dockerfile 1000
#> patches/x.patch 1000
FROM node
WORKDIR /app
COPY . .
RUN npm ci
