#> requirements.txt 1000
#> main.py 1000
FROM python
ADD . /app
WORKDIR /app
ENV PYTHONUNBUFFERED=1
RUN pip install --no-cache-dir -r requirements.txt
EXPOSE 80
CMD ["python", "main.py"]
