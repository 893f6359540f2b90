#> build-arg=API_TOKEN=hunter22
#> build-arg=POSTGRES_PASSWORD=postgres
#> build-arg=VERSION_KEY=13
ARG VERSION_KEY
ARG POSTGRES_PASSWORD
ARG URL=https://example.com/?token=$POSTGRES_PASSWORD
FROM debian:$VERSION_KEY AS named-by-a-key

FROM scratch AS without-run
ARG API_TOKEN
ADD https://example.com/?t=$API_TOKEN /f
ADD https://user:$API_TOKEN@example.com/r.git /r

FROM busybox
COPY --from=named-by-a-key /bin/sh /named
COPY --from=without-run / /added
ARG API_TOKEN POSTGRES_PASSWORD URL
ARG LITERAL_TOKEN=of-the-file EMPTY_TOKEN=
ENV TOKENIZERS_PARALLELISM=false DATABASE=postgres://u:${API_TOKEN}@postgres/x \
    PASSWORD=$API_TOKEN PLAIN="plain $VERSION"
LABEL with=$API_TOKEN of=postgres $API_TOKEN=hunter22
ADD $URL /through/another/name
ADD --chown=$API_TOKEN:1 --chmod=0644$EMPTY_TOKEN https://example.com/postgres-false /$DATABASE/
COPY "$API_TOKEN-${API_TOKEN#hunter}" '/$API_TOKEN'
WORKDIR /at/$API_TOKEN
WORKDIR below
WORKDIR /elsewhere
RUN git config core.autocrlf false && echo postgres $DATABASE ${API_TOKEN:+given} ${API_TOKEN:-none}
USER $API_TOKEN
VOLUME /v/$API_TOKEN /postgres
EXPOSE 80 443
HEALTHCHECK CMD echo $API_TOKEN postgres
CMD ["echo", "$API_TOKEN", "postgres"]
