#> pyproject.toml 1000
#> main.py 1000
FROM python
WORKDIR /app
COPY . .
RUN pip install .
RUN pip install -e .[dev]
