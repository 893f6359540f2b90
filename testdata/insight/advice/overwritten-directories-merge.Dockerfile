#> a/1 1000
#> a/2 1000
#> b/1 1000
#> b/2 1000
FROM node
COPY a /app/
COPY b /app/
