#> main.py 1000
FROM debian
COPY . /app
# check=skip=CopyBeforeExpensiveRun
RUN apt-get update && apt-get install -y x
