FROM a
COPY --form=x --chown --link=maybe --link= a b
COPY --from=a --from=b --link --link=false a b
RUN --mount x
RUN --privileged x
CMD --help
USER --x y
COPY --Link a b
