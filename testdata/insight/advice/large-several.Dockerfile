#> app/main.py 1000
#> app/data.bin 20000000
#> lib/x 1000
#> lib/deep/y 50000000
#> media/a 4000000
#> media/b/c 1700000000
#> small/x 9000000
#> disk.iso 30000000
#> a[1].iso 11000000
FROM debian
COPY app/*.py lib /app/
