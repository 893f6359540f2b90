#> app/requirements.txt 1000
#> app/m0.py 1000
#> app/m1.py 1000
#> app/m2.py 1000
#> app/m3.py 1000
#> app/m4.py 1000
#> app/m5.py 1000
#> app/m6.py 1000
#> app/m7.py 1000
#> README 1000
FROM python
COPY app /srv/app
RUN pip install -r /srv/app/requirements.txt
