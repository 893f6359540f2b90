#> app/requirements.txt 1000
#> app/main.py 1000
FROM python
WORKDIR /srv
COPY . .
WORKDIR app
RUN pip install -r requirements.txt
