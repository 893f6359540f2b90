FROM node
ARG TOKEN
RUN npm ci
LABEL token=$TOKEN
