#> package.json 1000
#> package-lock.json 1000
#> src/a.js 1000
#> src/b.js 1000
#> Dockerfile 1000
FROM node
COPY --chown=1000:1000 --link . /app
WORKDIR /app
RUN --mount=type=cache,target=/root/.npm \
    npm ci --omit=dev && \
    npm run build && \
    rm -rf src
