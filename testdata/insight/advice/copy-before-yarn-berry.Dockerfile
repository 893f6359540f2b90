#> package.json 1000
#> yarn.lock 1000
#> .yarnrc.yml 1000
#> .yarn/releases/yarn.cjs 1000
#> src/a.js 1000
FROM node
WORKDIR /app
ADD . .
RUN corepack enable
RUN yarn install --immutable
