#> app/requirements.txt 1000
#> app/main.py 1000
#> README 1000
FROM python
COPY app /srv/app
RUN pip install -r /srv/app/requirements.txt
