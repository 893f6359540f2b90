FROM a
RUN ['a', 'b']
RUN [ -f /x ] && echo
RUN ["a", "b"
CMD ["a",]
CMD ["a"] x
CMD ["	"]
ENTRYPOINT "[\"a\"]"
