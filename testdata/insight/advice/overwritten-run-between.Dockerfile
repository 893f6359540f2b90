#> package.json 1000
#> src/a.ts 1000
FROM node
WORKDIR /app
COPY package.json ./
RUN npm install
COPY . .
