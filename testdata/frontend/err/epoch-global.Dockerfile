ARG SOURCE_DATE_EPOCH=mysource
FROM scratch AS mysource
FROM scratch
