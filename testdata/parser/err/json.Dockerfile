FROM a
RUN ["a", 42]
CMD ["a", null]
ENTRYPOINT [["a"]]
SHELL ["a", {"b": 1}]
COPY [1, "b"]
VOLUME [true]
HEALTHCHECK CMD [1.5e3]
ONBUILD RUN [1]
CMD [ \
  "a", \
  42 ]
