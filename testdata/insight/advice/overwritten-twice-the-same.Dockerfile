FROM node
COPY src /app/src
LABEL x=y
COPY src /app/src
