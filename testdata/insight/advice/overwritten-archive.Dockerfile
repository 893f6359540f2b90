#> x.tar 1000
#> y 1000
FROM node
ADD x.tar /app/
COPY . /app/
ADD y /app/
ADD y /srv/../app/
