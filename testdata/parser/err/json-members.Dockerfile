FROM a
CMD ["a", 1]
RUN [["a"]]
ENTRYPOINT [null]
SHELL ["a", {}]
COPY [1, "b"]
