#> package.json 1000
#> package-lock.json 1000
#> tsconfig.json 1000
#> src/a.ts 1000
FROM node
WORKDIR /app
COPY package*.json tsconfig.json ./
COPY . .
