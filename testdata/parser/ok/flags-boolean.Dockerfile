FROM a
COPY --link a b
COPY --link=true a b
COPY --link=False --parents=TRUE a b
