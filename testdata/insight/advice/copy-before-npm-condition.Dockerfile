#> package.json 1000
#> package-lock.json 1000
#> src/a.js 1000
#> src/b.js 1000
#> Dockerfile 1000
FROM node
ARG ENVIRONMENT
WORKDIR /app
COPY . .
RUN if [ "$ENVIRONMENT" = dev ]; then npm install; else npm ci; fi
