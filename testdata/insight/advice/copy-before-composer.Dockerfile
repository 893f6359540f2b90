#> composer.json 1000
#> composer.lock 1000
#> src/a.php 1000
FROM php
WORKDIR /app
COPY . .
RUN composer install --no-dev
