FROM full AS none
HEALTHCHECK NONE
FROM none AS exec
HEALTHCHECK --interval=0 CMD ["curl", "-f"]
