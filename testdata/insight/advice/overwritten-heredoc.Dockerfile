#> a.txt 1000
#> b.txt 1000
FROM node
COPY <<a.txt <<b.txt /app/
1
a.txt
2
b.txt
COPY a.txt b.txt /app/
