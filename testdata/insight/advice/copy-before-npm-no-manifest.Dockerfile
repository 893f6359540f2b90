#> src/a.js 1000
FROM node
WORKDIR /app
COPY . .
RUN npm ci
