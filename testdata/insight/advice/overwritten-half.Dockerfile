#> a.txt 1000
#> b.txt 1000
#> c.txt 1000
FROM node
COPY a.txt c.txt /app/
COPY a.txt b.txt /app/
