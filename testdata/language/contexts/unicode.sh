touch é ab z; touch $(printf "\xff")
