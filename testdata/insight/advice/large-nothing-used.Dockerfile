#> app/main.py 1000
#> app/data.bin 20000000
FROM debian
RUN true
