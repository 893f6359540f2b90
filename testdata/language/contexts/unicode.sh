touch é ab z; touch $(printf "\377")
