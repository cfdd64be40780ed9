"""Problems with known answers: what every algorithm is checked against."""
