#> requirements.txt 1000
#> configure 1000
#> main.py 1000
FROM debian
WORKDIR /app
COPY . .
RUN apt-get update && apt-get install -y python3-pip
COPY --from=composer /usr/bin/composer /usr/bin/composer
RUN pip3 install -r requirements.txt
RUN ./configure
RUN apt-get install -y more
