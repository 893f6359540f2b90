#> package.json 1000
#> web/package.json 1000
#> src/a.ts 1000
FROM node
WORKDIR /app
COPY package.json ./
COPY web .
COPY src/a.ts src/
COPY . /app/
