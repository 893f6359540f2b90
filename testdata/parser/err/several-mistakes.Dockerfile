FROM a AS 1b
RUN --mount=type=cache,targt=/x --foo make
COPY a
ENV A
WORKDIR
EXPOSE
CMD ["a", 1]
