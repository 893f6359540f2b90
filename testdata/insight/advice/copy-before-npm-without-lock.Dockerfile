#> package.json 1000
#> .npmrc 1000
#> src/a.js 1000
FROM node
WORKDIR /app
COPY . .
RUN npm install
