#> package.json 1000
#> package-lock.json 1000
#> src/a.js 1000
#> src/b.js 1000
#> Dockerfile 1000
FROM node
WORKDIR /app
COPY . .
RUN <<EOF
apt-get update
apt-get install -y git
npm ci
EOF
