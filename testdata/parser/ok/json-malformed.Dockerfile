FROM a
ENTRYPOINT ['hello']
ENTRYPOINT ["hello"
ENTRYPOINT [hello]
CMD ["hello",]
CMD [hello, world]
RUN ["echo" "x"]
RUN --network=none ["echo \d"]
RUN [“echo”, “x”]
HEALTHCHECK CMD ['x']
COPY ['x', '/x']
ADD [x, /x]
VOLUME ["/x"
ONBUILD RUN ["a" "b"]
RUN ["a", \
  "b",
RUN [ -f x ] && y
RUN [[ -f x ]]
RUN [ "$x" = y ] && z
RUN [ 'a' = b ]
RUN [a]
CMD [[ -f x ]]
CMD [ -f x ]
COPY [ab].txt /x/
COPY [a] [b]
RUN []
RUN ["a"]
