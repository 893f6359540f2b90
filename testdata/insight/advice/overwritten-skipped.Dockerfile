#> a.txt 1000
FROM node
# check=skip=CopyOverwritten
COPY a.txt /app/
COPY a.txt /app/
