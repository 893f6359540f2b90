#> x link
#> y 1000
FROM node
COPY x /app/
COPY . /app/
