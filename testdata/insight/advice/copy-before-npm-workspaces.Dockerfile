#> package.json 1000
#> yarn.lock 1000
#> lerna.json 1000
#> packages/a/package.json 1000
FROM node
WORKDIR /app
COPY . .
RUN yarn install
