FROM a
CMD ['a', 'b']
ENTRYPOINT ["a", 'b']
