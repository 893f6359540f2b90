#> requirements/dev.txt 1000
#> requirements/base.txt 1000
#> main.py 1000
FROM python
WORKDIR /app
COPY . .
RUN pip install -r requirements/dev.txt
