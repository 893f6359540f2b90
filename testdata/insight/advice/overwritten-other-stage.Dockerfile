FROM node
COPY --from=a /x.txt /app/
COPY --from=b /x.txt /app/
COPY --from=a /y.txt /app/
COPY --from=a /y.txt /app/
