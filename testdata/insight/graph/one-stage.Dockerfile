#> runs 5
FROM debian
WORKDIR /app
COPY main.c .
RUN cc -o main main.c
CMD ["/app/main"]
